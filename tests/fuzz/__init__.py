"""Damaged and hostile files for the product's own readers: ``make fuzz``, or ``python -m fuzz --help``."""
