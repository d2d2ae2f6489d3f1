"""Spool → Kinto: couriers, what answers mean, and reconciling."""
