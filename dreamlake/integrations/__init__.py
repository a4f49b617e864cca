"""Other tools, and how runs come from them and go to them."""
