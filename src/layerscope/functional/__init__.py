"""Pure functions, one per formula."""
