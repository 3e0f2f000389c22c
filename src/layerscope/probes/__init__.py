"""Forward hooks: choose layers, reduce what they compute at once, always detach."""
