"""Where pictures come from: what a run covers, and how a picture is known again. No picture is decoded here."""
