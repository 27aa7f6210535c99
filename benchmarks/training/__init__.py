"""What is trained and how: networks, losses with what they compare with, the loop."""
