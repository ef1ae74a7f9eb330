"""The stages of the road, one file each; every stage is a plain function, callable without a CLI."""
