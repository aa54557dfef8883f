"""What several tests need: pictures, tars, pools, small models, servers, processes, whole runs made up in small."""
