"""Deep recurrent modules built on `rnnlab.recurrence`."""
