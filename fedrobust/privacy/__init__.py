"""What a hospital does to its update before sending it, what that costs, and secure aggregation."""
