"""What will work on this machine: facts about it, and the table of checks that judge them."""
