"""Look at the machine: its memory, cores, device and files; units and checks of arguments."""
