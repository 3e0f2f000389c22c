"""torchmetrics classes, each thin over functional."""
