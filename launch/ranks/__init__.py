"""Processes that compute together: starting them, agreeing, summing over them."""
