"""DataComp's evaluation folders: fetching, reading, checking them."""
