"""Candidates side by side (E3): what each loses, how sure that is, and what it costs. Reads run directories only."""
