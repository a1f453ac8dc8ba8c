"""Where pictures come from: what a run covers, and how a picture is recognised. No picture is decoded here."""
