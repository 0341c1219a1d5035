"""Labels of house numbers: a head for each digit."""

MAX_DIGITS = 5
"""Digits of the longest number, and heads of a label."""

BLANK = 10
"""The class of a head beyond the last digit."""
