"""C++ generated from a Program, compiled by the machine's own compiler."""
