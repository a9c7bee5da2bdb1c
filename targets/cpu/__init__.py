"""Native CPU libraries."""
