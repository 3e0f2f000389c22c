"""What is measured, logged and written while a task runs."""
