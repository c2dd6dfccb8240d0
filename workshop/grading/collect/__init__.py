"""Collect students' files from archives of a learning management system or from the exchange."""
