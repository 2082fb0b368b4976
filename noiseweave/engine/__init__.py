"""What happens to images: pure torch and diffusers, no Ray, no storage."""
