"""Plain recurrent cells: one step of the equation, and nothing else."""
