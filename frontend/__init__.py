"""Frontends: each turns one kind of program or file into a `dsc` module."""
