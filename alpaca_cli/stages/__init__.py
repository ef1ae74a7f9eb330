"""The stages of the road, one file each: plain functions that need no command line."""
