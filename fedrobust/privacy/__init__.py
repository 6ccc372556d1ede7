"""Privacy mechanisms applied to an update before it is sent, their cost, and secure aggregation."""
