"""Modules that can be imported in place of other packages."""
