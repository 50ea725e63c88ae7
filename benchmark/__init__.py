"""What is measured, how it is judged and how it is kept."""
