"""What every stage shares: errors, files, processes, progress, data reports, images, CLIP loading."""
