package answer

import (
	"bytes"
	"encoding/json"
	"slices"
)

// Log takes what the program under question logs with logrus's JSONFormatter: one JSON object a line.
var Log bytes.Buffer

// takeLog empties the log and gives its lines, and the first of them that reports an error.
func takeLog() (lines []string, failure string) {
	lines = []string{}
	for line := range bytes.Lines(slices.Clone(Log.Bytes())) {
		var entry struct{ Level, Msg, Error string }
		if err := json.Unmarshal(line, &entry); err != nil {
			entry.Level, entry.Msg, entry.Error = "error", string(line), err.Error()
		}
		text := entry.Level + ": " + entry.Msg
		if entry.Error != "" {
			text += ": " + entry.Error
		}
		lines = append(lines, text)
		if failure == "" && entry.Level != "info" && entry.Level != "warning" {
			failure = text
		}
	}
	Log.Reset()
	return lines, failure
}
