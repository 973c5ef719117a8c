"""The search index, the searcher over it, and the query command."""
