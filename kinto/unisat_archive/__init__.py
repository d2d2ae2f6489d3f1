"""The open archive: records that are too old for the hub's database, as files for ever."""
