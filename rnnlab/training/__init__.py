"""What a run needs: its folder, callbacks, checkpoints."""
