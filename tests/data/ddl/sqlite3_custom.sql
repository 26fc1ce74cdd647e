-- As cdr_sqlite3_custom and cel_sqlite3_custom create them: every column as configured, without a type.
CREATE TABLE cdr (AcctId INTEGER PRIMARY KEY, calldate TEXT, answer TEXT, end TEXT, clid TEXT, src TEXT, dst TEXT,
  dcontext TEXT, channel TEXT, dstchannel TEXT, lastapp TEXT, lastdata TEXT, duration TEXT, billsec TEXT, disposition TEXT,
  amaflags TEXT, accountcode TEXT, uniqueid TEXT, linkedid TEXT, sequence TEXT, userfield TEXT, recordingfile TEXT);
CREATE TABLE cel (AcctId INTEGER PRIMARY KEY, eventtype TEXT, eventtime TEXT, cidname TEXT, cidnum TEXT, cidani TEXT,
  cidrdnis TEXT, ciddnid TEXT, context TEXT, exten TEXT, channame TEXT, appname TEXT, appdata TEXT, amaflags TEXT,
  accountcode TEXT, uniqueid TEXT, linkedid TEXT, userfield TEXT, peer TEXT, userdeftype TEXT, eventextra TEXT);
