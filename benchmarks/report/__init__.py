"""Reports: HTML files that need nothing beside them."""
