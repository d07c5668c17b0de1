"""What machines that share a store alone keep of it, and what it holds for them."""
