"""What the user says: text files, labels, and the prompts they become."""
