#!/bin/bash -e
# What changes often, and what the station does by itself when it is booted.
../../provision --tags agent,firstboot
