"""The recurrence compiler and its reference: one cell, one direction, a whole sequence."""
