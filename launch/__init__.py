"""How a run starts, stops, resumes and is seen."""
