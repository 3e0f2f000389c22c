"""Images, tables and phantoms on disk, and the datamodules that read them."""
