"""Take in what students hand in: unpack archives, repair notebooks."""
