"""What single notebooks need beside the families: settings, study loops and measurements of their own."""
