"""Tables, verdicts and plots from stored scores; knows neither torch nor Lightning."""
