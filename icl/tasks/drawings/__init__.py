"""Real drawings from packages of the system: how they are fetched and cleaned, and the tasks that show them."""
