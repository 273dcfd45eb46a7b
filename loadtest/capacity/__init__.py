"""What a population needs: measured costs of this machine, and the arithmetic from them to processes and memory."""
