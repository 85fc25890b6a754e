"""Evidence: numbers with intervals, figures, the report."""
