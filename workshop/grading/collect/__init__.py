"""Collect what students handed in: from archives of a learning system, or from the exchange."""
