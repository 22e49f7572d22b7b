"""The dashboard: pages that show by HTML and charts what the API of the service tells."""
