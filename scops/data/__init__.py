"""From files to batches: Sample -> Processor -> Example -> pad or pack -> Batch."""
