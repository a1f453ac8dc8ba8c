"""Answers -> files and pages. A number is formatted and a name is escaped here."""
