"""`make screenshots`: takes the pictures of the page and the terminal that README and docs/ show."""
