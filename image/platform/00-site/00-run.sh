#!/bin/bash -e
# All of a publisher that changes seldom: system, container engine, database, Kinto.
../../provision --skip-tags agent,firstboot
