"""The recipes that come with ganjax, each a file as a user would write it: `ganjax recipes` lists them."""
